"""Channels on which people are told, what was announced, and each try to deliver it."""

import django.contrib.postgres.fields
import django.core.validators
import django.db.models.deletion
import uuid
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('accounts', '0007_tenant_requires_review'),
        ('policies', '0003_tenant_isolation'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name='ChatLinkCode',
            fields=[
                ('id', models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('updated_at', models.DateTimeField(auto_now=True)),
                ('digest', models.CharField(max_length=64, unique=True)),
                ('expires_at', models.DateTimeField(db_index=True)),
                ('tenant', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='accounts.tenant')),
                ('user', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='+', to=settings.AUTH_USER_MODEL)),
            ],
            options={
                'abstract': False,
            },
        ),
        migrations.CreateModel(
            name='NotificationChannel',
            fields=[
                ('id', models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('updated_at', models.DateTimeField(auto_now=True)),
                ('name', models.CharField(max_length=63, validators=[django.core.validators.RegexValidator('^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\\Z', 'Use 1 to 63 small letters, digits and hyphens.')])),
                ('kind', models.CharField(choices=[('email', 'E-mail'), ('slack', 'Slack'), ('teams', 'Microsoft Teams'), ('webhook', 'Webhook')], max_length=8)),
                ('events', django.contrib.postgres.fields.ArrayField(base_field=models.CharField(choices=[('approval.opened', 'an approval is asked for'), ('approval.escalated', 'an approval is escalated'), ('approval.decided', 'an approval is decided, expired or withdrawn'), ('approval.break_glass', 'somebody broke the glass'), ('kill_switch.used', 'the kill switch was used')], max_length=32), blank=True, default=list, help_text='Empty: all.', size=None)),
                ('address', models.CharField(blank=True, help_text="E-mail: addresses, separated by commas; empty: all who may approve. Slack: the channel's id. Webhook: the URL. Teams: leave it empty.", max_length=500)),
                ('shows_text', models.BooleanField(default=False, help_text='Off: its text stays here, and the message links to it.', verbose_name='show the statement')),
                ('sealed_secrets', models.TextField(blank=True, editable=False)),
                ('is_active', models.BooleanField(default=True, verbose_name='active')),
                ('tenant', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='accounts.tenant')),
            ],
            options={
                'ordering': ('name',),
            },
        ),
        migrations.CreateModel(
            name='Notification',
            fields=[
                ('id', models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('updated_at', models.DateTimeField(auto_now=True)),
                ('event', models.CharField(choices=[('approval.opened', 'an approval is asked for'), ('approval.escalated', 'an approval is escalated'), ('approval.decided', 'an approval is decided, expired or withdrawn'), ('approval.break_glass', 'somebody broke the glass'), ('kill_switch.used', 'the kill switch was used')], max_length=32)),
                ('key', models.CharField(max_length=200)),
                ('subject_id', models.UUIDField(null=True)),
                ('payload', models.JSONField()),
                ('recipients', models.JSONField(default=list, help_text='Who can decide, for a channel that names nobody.')),
                ('state', models.CharField(choices=[('waiting', 'waiting'), ('sent', 'sent'), ('given_up', 'given up')], default='waiting', max_length=8)),
                ('attempts', models.PositiveSmallIntegerField(default=0)),
                ('due_at', models.DateTimeField(null=True)),
                ('peer_id', models.CharField(blank=True, max_length=200)),
                ('tenant', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='accounts.tenant')),
                ('channel', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='notifications', to='policies.notificationchannel')),
            ],
            options={
                'ordering': ('-created_at',),
            },
        ),
        migrations.CreateModel(
            name='ChatIdentity',
            fields=[
                ('id', models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('updated_at', models.DateTimeField(auto_now=True)),
                ('external_id', models.CharField(max_length=200)),
                ('tenant', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='accounts.tenant')),
                ('user', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='+', to=settings.AUTH_USER_MODEL)),
                ('channel', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='identities', to='policies.notificationchannel')),
            ],
            options={
                'verbose_name_plural': 'chat identities',
                'ordering': ('channel', 'user'),
            },
        ),
        migrations.CreateModel(
            name='DeliveryAttempt',
            fields=[
                ('id', models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('updated_at', models.DateTimeField(auto_now=True)),
                ('number', models.PositiveSmallIntegerField()),
                ('succeeded', models.BooleanField()),
                ('status', models.PositiveSmallIntegerField(default=0)),
                ('answer', models.CharField(blank=True, max_length=500)),
                ('duration_ms', models.PositiveIntegerField()),
                ('tenant', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='accounts.tenant')),
                ('notification', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='delivery_attempts', to='policies.notification')),
            ],
            options={
                'ordering': ('notification', 'number'),
                'constraints': [models.UniqueConstraint(fields=('notification', 'number'), name='delivery_attempt_once')],
            },
        ),
        migrations.AddConstraint(
            model_name='notificationchannel',
            constraint=models.UniqueConstraint(fields=('tenant', 'name'), name='channel_name_unique_in_tenant'),
        ),
        migrations.AddIndex(
            model_name='notification',
            index=models.Index(condition=models.Q(('state', 'waiting')), fields=['due_at'], name='notification_due'),
        ),
        migrations.AddIndex(
            model_name='notification',
            index=models.Index(fields=['tenant', '-created_at'], name='notification_recent'),
        ),
        migrations.AddConstraint(
            model_name='notification',
            constraint=models.UniqueConstraint(fields=('channel', 'key'), name='notification_once_on_channel'),
        ),
        migrations.AddConstraint(
            model_name='chatidentity',
            constraint=models.UniqueConstraint(fields=('channel', 'external_id'), name='chat_identity_unique'),
        ),
        *(
            migrations.RunSQL(
                sql=f"SELECT narrowgate_isolate('policies_{table}')",
                reverse_sql=f"SELECT narrowgate_expose('policies_{table}')",
            )
            for table in ("notificationchannel", "notification", "deliveryattempt", "chatidentity", "chatlinkcode")
        ),
        migrations.RunSQL(
            sql="SELECT narrowgate_make_append_only('policies_deliveryattempt')",
            reverse_sql="DROP TRIGGER refuse_truncate ON policies_deliveryattempt;"
            " DROP TRIGGER refuse_change ON policies_deliveryattempt;",
        ),
    ]
