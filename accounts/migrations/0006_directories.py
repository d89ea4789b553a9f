"""What tenants' directories say of their people and groups."""

import django.db.models.deletion
import django.db.models.functions.text
import uuid
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('accounts', '0005_token_endpoint'),
    ]

    operations = [
        migrations.CreateModel(
            name='ScimGroup',
            fields=[
                ('id', models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('updated_at', models.DateTimeField(auto_now=True)),
                ('display_name', models.CharField(max_length=200)),
                ('external_id', models.CharField(blank=True, max_length=254)),
                ('role', models.CharField(blank=True, choices=[('owner', 'Owner'), ('admin', 'Administrator'), ('approver', 'Approver'), ('auditor', 'Auditor'), ('viewer', 'Viewer')], help_text='Empty: it gives none.', max_length=16)),
                ('tenant', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='accounts.tenant')),
            ],
            options={
                'verbose_name': 'SCIM group',
                'ordering': ('display_name',),
            },
        ),
        migrations.CreateModel(
            name='ScimUser',
            fields=[
                ('id', models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('updated_at', models.DateTimeField(auto_now=True)),
                ('user_name', models.EmailField(help_text="The person's address.", max_length=254)),
                ('external_id', models.CharField(blank=True, max_length=254)),
                ('is_active', models.BooleanField(default=True)),
                ('is_deleted', models.BooleanField(default=False)),
                ('has_given_role', models.BooleanField(default=False, help_text='The role in the tenant comes of the groups.')),
                ('tenant', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='accounts.tenant')),
                ('user', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='+', to=settings.AUTH_USER_MODEL)),
            ],
            options={
                'verbose_name': 'SCIM user',
                'ordering': ('user_name',),
            },
        ),
        migrations.CreateModel(
            name='ScimMember',
            fields=[
                ('id', models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('updated_at', models.DateTimeField(auto_now=True)),
                ('group', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='members', to='accounts.scimgroup')),
                ('tenant', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='accounts.tenant')),
                ('member', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='groups', to='accounts.scimuser')),
            ],
            options={
                'ordering': ('member__user_name',),
            },
        ),
        migrations.AddConstraint(
            model_name='scimgroup',
            constraint=models.UniqueConstraint(models.F('tenant'), django.db.models.functions.text.Lower('display_name'), name='scim_group_once_per_tenant'),
        ),
        migrations.AddConstraint(
            model_name='scimuser',
            constraint=models.UniqueConstraint(models.F('tenant'), django.db.models.functions.text.Lower('user_name'), name='scim_user_once_per_tenant'),
        ),
        migrations.AddConstraint(
            model_name='scimmember',
            constraint=models.UniqueConstraint(fields=('group', 'member'), name='scim_member_once'),
        ),
        *(
            migrations.RunSQL(
                sql=f"SELECT narrowgate_isolate('accounts_{table}')",
                reverse_sql=f"SELECT narrowgate_expose('accounts_{table}')",
            )
            for table in ("scimuser", "scimgroup", "scimmember")
        ),
    ]
